//! SentencePiece's map of characters, proved sound before the library follows it.
//!
//! The map is a tree in one array (a double array: Aoe, 1989), and the texts that its leaves point to. The
//! library takes every index in it on trust, also while it reads a prompt, where a panic ends the worker.
//! So each step that any text could take is taken here once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Bytes of the tree's length in front.
const LENGTH_BYTES: usize = 4;

/// One unit of the tree, as the format packs it.
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    fn has_leaf(self) -> bool {
        self.0 >> 8 & 1 == 1
    }

    /// What a leaf points to, bytes into the texts.
    fn value(self) -> usize {
        (self.0 & 0x7FFF_FFFF) as usize
    }

    /// The byte that leads here. Leaves have one that no byte equals.
    fn label(self) -> u32 {
        self.0 & (1 << 31 | 0xFF)
    }

    fn offset(self) -> usize {
        ((self.0 >> 10) as usize) << ((self.0 & 1 << 9) >> 6)
    }
}

/// Checks a map in base64; the error says what is wrong.
pub fn check(base64: &str) -> Result<(), &'static str> {
    let bytes = STANDARD.decode(base64).map_err(|_| "is no base64")?;
    let (length, rest) = bytes
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or("is cut short")?;
    let length = u32::from_le_bytes(*length) as usize / 4 * 4;
    let (tree, texts) = rest.split_at_checked(length).ok_or("is cut short")?;
    let units = tree.as_chunks::<4>().0.iter();
    let units: Vec<Unit> = units.map(|unit| Unit(u32::from_le_bytes(*unit))).collect();
    let texts = std::str::from_utf8(texts).map_err(|_| "maps to what is no text")?;
    walk(&units, texts)
}

/// Takes every step from the root on.
fn walk(units: &[Unit], texts: &str) -> Result<(), &'static str> {
    const OUTSIDE: &str = "leads outside itself";
    let root = units.first().ok_or("is empty")?;
    let mut seen = vec![false; units.len()];
    let mut bases = vec![root.offset()];
    while let Some(base) = bases.pop() {
        for byte in 1..=255 {
            let at = base ^ byte as usize;
            let unit = *units.get(at).ok_or(OUTSIDE)?;
            if unit.label() != byte || std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let next = at ^ unit.offset();
            if unit.has_leaf() {
                let value = units.get(next).ok_or(OUTSIDE)?.value();
                if !texts.is_char_boundary(value) {
                    return Err("maps a character to the middle of another");
                }
            }
            bases.push(next);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of that tree, 256 units and more, to those texts.
    fn map(units: &[(usize, u32)], texts: &str) -> String {
        let mut tree = vec![0u32; 512];
        for (at, unit) in units {
            tree[*at] = *unit;
        }
        let mut bytes = (tree.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(tree.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(texts.as_bytes());
        STANDARD.encode(bytes)
    }

    /// From the root to 'a' and its leaf, which points to `value`.
    fn letter(value: u32) -> Vec<(usize, u32)> {
        let root = 256 << 10;
        let at = 256 ^ usize::from(b'a');
        // Its offset of 1 leads to the leaf beside it.
        vec![
            (0, root),
            (at, u32::from(b'a') | 1 << 8 | 1 << 10),
            (at ^ 1, 1 << 31 | value),
        ]
    }

    #[test]
    fn a_sound_map_is_taken() {
        assert_eq!(check(&map(&letter(0), "b\0")), Ok(()));
        assert_eq!(check(&map(&letter(2), "é\0")), Ok(()));
    }

    #[test]
    fn every_kind_of_lie_is_found() {
        assert_eq!(
            check(&map(&letter(1), "é\0")),
            Err("maps a character to the middle of another")
        );
        assert!(check(&map(&letter(100), "b\0")).is_err());
        let far = u32::from(b'a') | 1 << 20;
        let mut lost = letter(0);
        lost[1].1 = far;
        assert_eq!(check(&map(&lost, "b\0")), Err("leads outside itself"));
        assert_eq!(check("/////w=="), Err("is cut short"));
        assert_eq!(check("AA=="), Err("is cut short"));
        assert_eq!(check("?"), Err("is no base64"));
        assert_eq!(check("AAAAAA=="), Err("is empty"));
    }
}
