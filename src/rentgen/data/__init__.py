"""Sets of films: listing, splitting, auditing, fetching."""
