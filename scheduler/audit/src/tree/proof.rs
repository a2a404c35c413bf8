//! Inclusion and consistency proofs of RFC 9162, section 2.1: made from the hashes of all leaves,
//! checked by anybody from roots alone.

use super::{Hash, node_hash, sha256};

/// The root over the hashes of leaves.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(split(many.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// The path that proves leaf `index`; `None` if there is no such leaf.
pub fn inclusion(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    (index < leaves.len()).then(|| {
        let mut path = Vec::new();
        inclusion_into(leaves, index, &mut path);
        path
    })
}

fn inclusion_into(leaves: &[Hash], index: usize, path: &mut Vec<Hash>) {
    if leaves.len() == 1 {
        return;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if index < left.len() {
        inclusion_into(left, index, path);
        path.push(root(right));
    } else {
        inclusion_into(right, index - left.len(), path);
        path.push(root(left));
    }
}

/// The proof that the tree of the first `earlier` leaves is a prefix of the tree of all; `None`
/// unless `0 < earlier <= leaves.len()`.
pub fn consistency(leaves: &[Hash], earlier: usize) -> Option<Vec<Hash>> {
    (earlier > 0 && earlier <= leaves.len()).then(|| {
        let mut path = Vec::new();
        consistency_into(leaves, earlier, true, &mut path);
        path
    })
}

fn consistency_into(leaves: &[Hash], earlier: usize, whole: bool, path: &mut Vec<Hash>) {
    if earlier == leaves.len() {
        if !whole {
            path.push(root(leaves));
        }
        return;
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if earlier <= left.len() {
        consistency_into(left, earlier, whole, path);
        path.push(root(right));
    } else {
        consistency_into(right, earlier - left.len(), false, path);
        path.push(root(left));
    }
}

/// Whether `path` proves that `leaf` is the leaf `index` of the tree of `size` leaves with `root`.
pub fn inclusion_holds(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `path` proves that the tree `(earlier, earlier_root)` is a prefix of `(size, root)`.
pub fn consistency_holds(
    earlier: u64,
    earlier_root: &Hash,
    size: u64,
    root: &Hash,
    path: &[Hash],
) -> bool {
    if earlier == 0 || earlier > size {
        return false;
    }
    if earlier == size {
        return path.is_empty() && earlier_root == root;
    }
    let (mut node, mut last) = (earlier - 1, size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    // A complete earlier tree is a node of the later one, so its root need not be sent.
    let (start, rest) = match path {
        _ if earlier.is_power_of_two() => (*earlier_root, path),
        [first, rest @ ..] => (*first, rest),
        [] => return false,
    };
    let (mut old, mut new) = (start, start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old == *earlier_root && new == *root
}

/// The largest power of two below `count`, for a count of at least 2.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::super::{Frontier, leaf_hash};
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| leaf_hash(&i.to_le_bytes())).collect()
    }

    #[test]
    fn every_small_tree_proves_every_leaf_and_every_prefix() {
        for count in 1..40 {
            let leaves = leaves(count);
            let whole = root(&leaves);
            for index in 0..count {
                let path = inclusion(&leaves, index).unwrap();
                let (index, count) = (index as u64, count as u64);
                assert!(inclusion_holds(
                    &leaves[index as usize],
                    index,
                    count,
                    &path,
                    &whole
                ));
                assert!(!inclusion_holds(
                    &leaf_hash(b"x"),
                    index,
                    count,
                    &path,
                    &whole
                ));
                assert!(!inclusion_holds(
                    &leaves[index as usize],
                    index + 1,
                    count,
                    &path,
                    &whole
                ));
            }
            for earlier in 1..=count {
                let path = consistency(&leaves, earlier).unwrap();
                let old = root(&leaves[..earlier]);
                assert!(consistency_holds(
                    earlier as u64,
                    &old,
                    count as u64,
                    &whole,
                    &path
                ));
                assert!(!consistency_holds(
                    earlier as u64,
                    &leaf_hash(b"x"),
                    count as u64,
                    &whole,
                    &path
                ));
                assert!(!consistency_holds(
                    earlier as u64,
                    &old,
                    count as u64,
                    &leaf_hash(b"x"),
                    &path
                ));
            }
        }
    }

    #[test]
    fn what_does_not_exist_has_no_proof() {
        assert!(inclusion(&leaves(3), 3).is_none());
        assert!(consistency(&leaves(3), 0).is_none());
        assert!(consistency(&leaves(3), 4).is_none());
        assert!(!inclusion_holds(&[0; 32], 0, 0, &[], &[0; 32]));
    }

    proptest! {
        #[test]
        fn proofs_of_the_frontiers_roots_hold_and_break_when_touched(
            count in 2usize..400, pick in any::<usize>(), bit in 0usize..256,
        ) {
            let leaves = leaves(count);
            let mut tree = Frontier::default();
            leaves.iter().for_each(|leaf| tree.push(*leaf));
            let index = pick % count;
            let mut path = inclusion(&leaves, index).unwrap();
            prop_assert!(inclusion_holds(&leaves[index], index as u64, tree.size(), &path, &tree.root()));
            let last = path.len() - 1;
            path[pick % (last + 1)][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!inclusion_holds(&leaves[index], index as u64, tree.size(), &path, &tree.root()));
            path.pop();
            prop_assert!(!inclusion_holds(&leaves[index], index as u64, tree.size(), &path, &tree.root()));
        }

        #[test]
        fn a_rewritten_prefix_has_no_proof(count in 2usize..300, pick in any::<usize>()) {
            let honest = leaves(count);
            let earlier = 1 + pick % (count - 1);
            let mut forged = honest.clone();
            forged[pick % earlier] = leaf_hash(b"forged");
            let path = consistency(&forged, earlier).unwrap();
            prop_assert!(!consistency_holds(
                earlier as u64, &root(&honest[..earlier]), count as u64, &root(&forged), &path,
            ));
        }
    }
}
