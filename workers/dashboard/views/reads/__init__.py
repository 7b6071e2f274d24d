"""What pages and answers show, one file a subject: each makes one JSON document of the read models."""
