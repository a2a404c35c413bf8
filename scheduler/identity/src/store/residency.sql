-- The regions that a tenant is bound to: a JSON list of names, empty for any.
ALTER TABLE tenants ADD COLUMN residency TEXT NOT NULL DEFAULT '[]';
