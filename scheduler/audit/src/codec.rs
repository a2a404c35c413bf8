//! Reading fixed fields from bytes that may be damaged or hostile: every step is checked, nothing
//! allocates by a length that was read.

/// The bytes end before the field does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it ends too early")]
pub(crate) struct Short;

/// A position in a slice of bytes.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    /// Bytes consumed so far.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let end = self.at.checked_add(count).ok_or(Short)?;
        let taken = self.bytes.get(self.at..end).ok_or(Short)?;
        self.at = end;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        self.take(N)?.try_into().map_err(|_| Short)
    }

    pub fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Short> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A field preceded by its length in one byte.
    pub fn short_bytes(&mut self) -> Result<&'a [u8], Short> {
        let length = self.u8()?;
        self.take(length.into())
    }
}

/// Appends a field of at most 255 bytes, its length first.
pub(crate) fn put_short_bytes(out: &mut Vec<u8>, field: &[u8]) {
    let length = u8::try_from(field.len()).expect("bounded by validation to 255 bytes");
    out.push(length);
    out.extend_from_slice(field);
}
