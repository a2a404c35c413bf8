CREATE TABLE tenants (
    number          BIGINT NOT NULL PRIMARY KEY,
    name            TEXT   NOT NULL UNIQUE,
    weight          BIGINT NOT NULL,
    models          TEXT   NOT NULL, -- a JSON list of names
    quota_bytes     BIGINT NOT NULL,
    created_unix_s  BIGINT NOT NULL
);

CREATE TABLE agents (
    number          BIGINT NOT NULL PRIMARY KEY,
    id              TEXT   NOT NULL UNIQUE,
    tenant          BIGINT NOT NULL REFERENCES tenants (number),
    name            TEXT   NOT NULL,
    scopes          TEXT   NOT NULL, -- names with spaces between them
    status          TEXT   NOT NULL,
    generation      BIGINT NOT NULL,
    created_unix_s  BIGINT NOT NULL,
    UNIQUE (tenant, name)
);

-- Public halves only: the private ones were given away and forgotten.
CREATE TABLE agent_keys (
    kid             TEXT   NOT NULL PRIMARY KEY,
    agent           BIGINT NOT NULL REFERENCES agents (number),
    public_x        TEXT   NOT NULL, -- Ed25519, as the x of its JWK
    status          TEXT   NOT NULL
);

-- Public halves only: each private one is a file beside this database.
CREATE TABLE issuer_keys (
    epoch           BIGINT NOT NULL PRIMARY KEY,
    kid             TEXT   NOT NULL UNIQUE,
    public_x        TEXT   NOT NULL,
    retired_unix_s  BIGINT           -- NULL: this one signs
);

-- Assertions that were used and have not expired.
CREATE TABLE used_jti (
    agent           BIGINT NOT NULL,
    jti             TEXT   NOT NULL,
    expires_unix_s  BIGINT NOT NULL,
    PRIMARY KEY (agent, jti)
);
CREATE INDEX used_jti_expires ON used_jti (expires_unix_s);
