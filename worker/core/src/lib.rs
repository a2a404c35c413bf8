//! Pure planning of engine steps: sequences, KV block tables
