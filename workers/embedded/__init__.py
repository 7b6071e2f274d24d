"""What a laptop lacks, embedded: never for production."""
