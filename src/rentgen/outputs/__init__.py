"""Results in the forms in which others take them: pure functions, without knowledge of a service or a store."""
