-- Versions that carry what a learner knew: the digest of the artifact, and the log offset up to which it had learned.
ALTER TABLE versions ADD COLUMN artifact_sha256 TEXT;
ALTER TABLE versions ADD COLUMN position INTEGER;
