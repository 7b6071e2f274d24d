"""Documents of pages and answers, one file per subject: each makes one JSON document of the read models."""
