"""The history: what was decided and done, by whom, as entries that are chained by hash; and reports about it."""
