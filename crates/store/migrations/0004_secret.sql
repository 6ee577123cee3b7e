-- The secret under which words of contexts are hashed: made once, carried by every backup.
CREATE TABLE hash_secret (
    secret BLOB NOT NULL CHECK (length(secret) = 32)
) STRICT;
INSERT INTO hash_secret (secret) VALUES (randomblob(32));
