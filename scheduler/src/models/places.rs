//! Where the tensors of a weights file lie: inside it, and apart.
//!
//! A file in which two tensors share bytes was made wrong, or to deceive: its loader would read more than
//! the file is large.

/// Where one tensor's bytes are, relative to the first of all tensors' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    pub start: u64,
    pub end: u64,
}

/// Characters of a tensor's name that a message repeats.
const NAME_CHARS_MAX: usize = 80;

/// As much of a tensor's name as a message repeats.
pub fn short(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// Where the last of them ends; or which two share bytes. Those of no bytes share none.
pub fn end_of(mut places: Vec<Place>) -> Result<u64, String> {
    places.retain(|place| place.start < place.end);
    places.sort_by_key(|place| (place.start, place.end));
    match places.windows(2).find(|two| two[1].start < two[0].end) {
        Some([one, other]) => Err(format!(
            "tensors {:?} and {:?} share bytes",
            short(&one.name),
            short(&other.name)
        )),
        _ => Ok(places.last().map_or(0, |last| last.end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, start: u64, end: u64) -> Place {
        let name = name.into();
        Place { name, start, end }
    }

    #[test]
    fn tensors_lie_apart_in_whatever_order_they_are_told() {
        let apart = vec![place("b", 4, 8), place("a", 0, 4), place("none", 2, 2)];
        assert_eq!(end_of(apart), Ok(8));
        assert_eq!(end_of(Vec::new()), Ok(0));
        for shared in [place("c", 3, 5), place("c", 0, 1), place("c", 0, u64::MAX)] {
            let error = end_of(vec![place("a", 0, 4), shared]).unwrap_err();
            assert!(
                error.contains("\"a\"") && error.contains("\"c\""),
                "{error}"
            );
        }
    }
}
