//! Cedar policies, their schema, and the permit they yield
