//! Reading our own frames from an async stream, under the same limit as everywhere.

use bulkhead_proto::frame::{self, FrameError, HEADER_BYTES};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The next message; `None` at a clean end of the stream.
pub async fn read<M: Message + Default>(
    input: &mut (impl AsyncRead + Unpin),
) -> Result<Option<M>, FrameError> {
    let mut header = [0u8; HEADER_BYTES];
    let got = input.read(&mut header).await?;
    if got == 0 {
        return Ok(None);
    }
    input.read_exact(&mut header[got..]).await?;
    let mut body = vec![0u8; frame::length(header)?];
    input.read_exact(&mut body).await?;
    Ok(Some(M::decode(body.as_slice())?))
}
