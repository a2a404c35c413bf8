//! Agents, keys, tokens, issuers, revocation
