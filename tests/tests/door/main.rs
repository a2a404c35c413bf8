//! The front door: TLS 1.3 and nothing older, every size bounded, every refusal with its reason.

mod buffers;
mod limits;
mod tls;
mod well_known;
