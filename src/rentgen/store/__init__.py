"""What is kept: studies, results, feedback, API keys and the audit trail, in SQLite or PostgreSQL."""
