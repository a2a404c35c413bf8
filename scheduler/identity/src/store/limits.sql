-- What operators change of a tenant, and how often they have.
ALTER TABLE tenants ADD COLUMN limits TEXT NOT NULL DEFAULT '{}'; -- as JSON, by name; what is left out is the server's
ALTER TABLE tenants ADD COLUMN generation BIGINT NOT NULL DEFAULT 1;
