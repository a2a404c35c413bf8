//! Maps of few things: devices, lanes, the models of a tenant. As many as a machine or its operator has, and no user adds one.
//!
//! A sorted vector: to find one is a few comparisons in a cache line or two, to walk them costs nothing beside, and the
//! n-th can be asked for, so that a walk may change what it walks over.

/// A map in the order of its keys.
#[derive(Debug)]
pub(crate) struct Few<K, V = ()>(Vec<(K, V)>);

impl<K, V> Default for Few<K, V> {
    fn default() -> Self {
        Few(Vec::new())
    }
}

impl<K: Copy + Ord, V> Few<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_ok()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let at = self.place(key).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.place(key).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    /// What the map has under this key, made now where there is nothing yet.
    pub(crate) fn get_or_insert_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        let at = self.place(&key).unwrap_or_else(|at| {
            self.0.insert(at, (key, new()));
            at
        });
        &mut self.0[at].1
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Ok(at) = self.place(key) {
            self.0.remove(at);
        }
    }

    /// The n-th key.
    pub(crate) fn nth(&self, n: usize) -> Option<K> {
        self.0.get(n).map(|(key, _)| *key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = K> + '_ {
        self.0.iter().map(|(key, _)| *key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.0.iter().map(|(key, value)| (*key, value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut V)> {
        self.0.iter_mut().map(|(key, value)| (*key, value))
    }

    fn place(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| other.cmp(key))
    }
}

impl<K: Copy + Ord> Few<K> {
    pub(crate) fn insert(&mut self, key: K) {
        self.get_or_insert_with(key, || ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_order_and_has_each_once() {
        let mut few = Few::default();
        for key in [5, 1, 9, 5, 3] {
            few.insert(key);
        }
        few.remove(&9);
        few.remove(&2);
        assert_eq!(few.keys().collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!((few.len(), few.nth(1), few.nth(3)), (3, Some(3), None));
        assert!(few.contains_key(&5) && !few.contains_key(&9));
    }

    #[test]
    fn what_is_there_stays() {
        let mut few = Few::default();
        few.get_or_insert_with(2, || "first");
        assert_eq!(*few.get_or_insert_with(2, || "second"), "first");
        *few.get_mut(&2).unwrap() = "third";
        assert_eq!((few.get(&2), few.get(&1)), (Some(&"third"), None));
    }
}
