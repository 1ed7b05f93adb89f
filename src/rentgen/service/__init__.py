"""The service: REST, the page, and the routes that clouds call."""
