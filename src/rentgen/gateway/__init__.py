"""The gateway: films in from modality and PACS, results back to PACS and information system; nothing is lost."""
