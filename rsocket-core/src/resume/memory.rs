//! A store that lasts as long as its process.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::store::{Batch, Key, Op, ResumeStore, StoreError, check_token};

type Rows = BTreeMap<Key, Bytes>;

/// Keeps sessions in memory: they outlive connections, and what a client or
/// server is made of, but not the process.
///
/// For tests, and as the meaning of the other stores: each has to do what this
/// one does.
#[derive(Default)]
pub struct MemoryStore {
    sessions: Mutex<HashMap<Bytes, Rows>>,
}

impl MemoryStore {
    /// A store without sessions.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is held under the lock is whole whenever the lock is free: nothing
    /// between two changes of it can panic.
    fn sessions(&self) -> MutexGuard<'_, HashMap<Bytes, Rows>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResumeStore for MemoryStore {
    fn load(&self, token: &[u8]) -> Result<Option<Vec<(Key, Bytes)>>, StoreError> {
        let token = check_token(token)?;
        let sessions = self.sessions();
        let rows = sessions.get(token);
        Ok(rows.map(|rows| {
            rows.iter()
                .map(|(key, value)| (*key, value.clone()))
                .collect()
        }))
    }

    fn commit(&self, token: &[u8], batch: &Batch) -> Result<(), StoreError> {
        let token = check_token(token)?;
        let mut sessions = self.sessions();
        if !sessions.contains_key(token) {
            sessions.insert(Bytes::copy_from_slice(token), Rows::new());
        }
        let rows = sessions.get_mut(token).expect("inserted above");
        for op in batch {
            match op {
                // Copied: a value may be a small part of a large buffer, which
                // it would keep for as long as the row is there.
                Op::Put(key, value) => drop(rows.insert(*key, Bytes::copy_from_slice(value))),
                Op::Delete(key) => drop(rows.remove(key)),
                // An empty range may have its end before its start, at which
                // maps panic.
                Op::DeleteRange(keys) if keys.is_empty() => {}
                Op::DeleteRange(keys) => rows.extract_if(keys.clone(), |_, _| true).for_each(drop),
            }
        }
        Ok(())
    }

    fn remove(&self, token: &[u8]) -> Result<(), StoreError> {
        self.sessions().remove(check_token(token)?);
        Ok(())
    }

    fn tokens(&self) -> Result<Vec<Bytes>, StoreError> {
        Ok(self.sessions().keys().cloned().collect())
    }
}

// By hand, since tokens are secret.
impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions = self.sessions().len();
        f.debug_struct("MemoryStore")
            .field("sessions", &sessions)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn rows_come_back_in_key_order() {
        let store = MemoryStore::new();
        let keys = [
            Key::new(1, 0, 0),
            Key::new(0, 9, 9),
            Key::new(0, 9, 0),
            Key::new(0, 0, 10),
        ];
        let mut batch = Batch::new();
        for key in keys {
            batch.put(key, value("row"));
        }
        store.commit(b"t", &batch).unwrap();
        let mut sorted = keys;
        sorted.sort();
        let loaded = store.load(b"t").unwrap().unwrap();
        assert_eq!(
            loaded.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            sorted
        );
        assert_eq!(sorted[0], Key::new(0, 0, 10));
    }

    #[test]
    fn a_batch_is_applied_in_order() {
        let store = MemoryStore::new();
        let key = |b| Key::new(0, 0, b);
        let mut batch = Batch::new();
        batch.put(key(1), value("overwritten"));
        batch.put(key(1), value("kept"));
        batch.put(key(2), value("deleted"));
        batch.put(key(3), value("deleted"));
        batch.delete_range(key(2)..key(4));
        batch.put(key(3), value("back"));
        batch.delete(key(7));
        // Nothing lies between these.
        batch.delete_range(key(3)..key(1));
        store.commit(b"t", &batch).unwrap();
        assert_eq!(
            store.load(b"t").unwrap().unwrap(),
            [(key(1), value("kept")), (key(3), value("back"))]
        );
    }

    #[test]
    fn a_session_is_there_from_its_first_commit_until_it_is_removed() {
        let store = MemoryStore::new();
        assert_eq!(store.load(b"t").unwrap(), None);
        store.commit(b"t", &Batch::new()).unwrap();
        assert_eq!(store.load(b"t").unwrap(), Some(vec![]));
        assert_eq!(store.tokens().unwrap(), [value("t")]);
        store.remove(b"t").unwrap();
        store.remove(b"t").unwrap();
        assert_eq!(store.load(b"t").unwrap(), None);
        assert!(store.tokens().unwrap().is_empty());
    }

    #[test]
    fn tokens_without_bytes_or_with_too_many_are_refused() {
        let store = MemoryStore::new();
        for token in [&[][..], &[0; 65536]] {
            let len = token.len();
            let refused = |error| matches!(error, StoreError::Token { len: found } if found == len);
            assert!(refused(store.load(token).unwrap_err()));
            assert!(refused(store.commit(token, &Batch::new()).unwrap_err()));
            assert!(refused(store.remove(token).unwrap_err()));
        }
        store.commit(&[0; 65535], &Batch::new()).unwrap();
    }

    #[test]
    fn neither_tokens_nor_values_are_shown() {
        let store = MemoryStore::new();
        let mut batch = Batch::new();
        batch.put(Key::default(), value("secret"));
        store.commit(b"secret", &batch).unwrap();
        assert!(!format!("{store:?} {batch:?}").contains("secret"));
    }
}
