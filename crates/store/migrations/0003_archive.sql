-- Models that answer no more, and those that are gone: their names stay taken, since their decisions are in the log.
ALTER TABLE models ADD COLUMN archived_ms INTEGER;
ALTER TABLE models ADD COLUMN deleted_ms INTEGER;
