//! Where a stream id's state lies.

use std::collections::HashMap;

use crate::frame::StreamId;

/// Maps the live stream ids of one side to slots.
///
/// Ids come in steps of two and live briefly, so most are found by indexing
/// with `id / 2`, at a tenth of the cost of hashing. Ids that collide with a
/// live one go to a map, whose hasher a peer cannot predict.
#[derive(Debug)]
pub(crate) struct IdTable {
    direct: Vec<Entry>,
    overflow: HashMap<u32, u32>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// 0 when free: no stream has that id.
    id: u32,
    slot: u32,
}

impl Entry {
    const FREE: Self = Self { id: 0, slot: 0 };
}

impl IdTable {
    const MIN_LEN: usize = 64;
    /// 512 KiB of entries; more ids than that at once are hashed.
    const MAX_LEN: usize = 1 << 16;

    pub(crate) fn new() -> Self {
        Self {
            direct: Vec::new(),
            overflow: HashMap::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn get(&self, id: StreamId) -> Option<usize> {
        let entry = self.direct.get(self.index(id))?;
        if entry.id == id.get() {
            return Some(entry.slot as usize);
        }
        if self.overflow.is_empty() {
            return None;
        }
        self.overflow.get(&id.get()).map(|slot| *slot as usize)
    }

    /// Adds an id that is not in the table.
    pub(crate) fn insert(&mut self, id: StreamId, slot: usize) {
        if self.direct.is_empty() || self.overflow.len() > self.direct.len() / 4 {
            self.grow();
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "slots are fewer than stream ids, which are 31 bits"
        )]
        let slot = slot as u32;
        self.len += 1;
        let index = self.index(id);
        match self.direct.get_mut(index) {
            Some(entry) if entry.id == 0 => *entry = Entry { id: id.get(), slot },
            _ => {
                self.overflow.insert(id.get(), slot);
            }
        }
    }

    pub(crate) fn remove(&mut self, id: StreamId) {
        let index = self.index(id);
        match self.direct.get_mut(index) {
            Some(entry) if entry.id == id.get() => {
                *entry = Entry::FREE;
                self.len -= 1;
            }
            _ => {
                if self.overflow.remove(&id.get()).is_some() {
                    self.len -= 1;
                }
            }
        }
    }

    #[inline]
    fn index(&self, id: StreamId) -> usize {
        // The length is 0 or a power of two.
        (id.get() >> 1) as usize & self.direct.len().wrapping_sub(1)
    }

    fn grow(&mut self) {
        let len = (self.direct.len() * 2).clamp(Self::MIN_LEN, Self::MAX_LEN);
        if len == self.direct.len() {
            return;
        }
        let old = std::mem::replace(&mut self.direct, vec![Entry::FREE; len]);
        let entries = old.into_iter().filter(|entry| entry.id != 0);
        let overflow = std::mem::take(&mut self.overflow);
        let overflow = overflow.into_iter().map(|(id, slot)| Entry { id, slot });
        for entry in entries.chain(overflow) {
            let Some(id) = StreamId::new(entry.id) else {
                continue;
            };
            let index = self.index(id);
            match self.direct.get_mut(index) {
                Some(free) if free.id == 0 => *free = entry,
                _ => {
                    self.overflow.insert(entry.id, entry.slot);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Whatever ids a peer picks, the table is a map.
        #[test]
        fn the_table_agrees_with_a_map(
            ops in prop::collection::vec((any::<bool>(), prop_oneof![1_u32..200, 1..=StreamId::MAX.get()]), 1..400)
        ) {
            let mut table = IdTable::new();
            let mut model = HashMap::new();
            for (slot, (insert, raw)) in ops.into_iter().enumerate() {
                let id = StreamId::new(raw).unwrap();
                if insert && !model.contains_key(&raw) {
                    table.insert(id, slot);
                    model.insert(raw, slot);
                } else if !insert {
                    table.remove(id);
                    model.remove(&raw);
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.get(id), model.get(&raw).copied());
            }
            for (raw, slot) in &model {
                prop_assert_eq!(table.get(StreamId::new(*raw).unwrap()), Some(*slot));
            }
        }
    }

    #[test]
    fn ten_thousand_streams_at_once_are_found_again() {
        let mut table = IdTable::new();
        for i in 0..10_000_u32 {
            table.insert(StreamId::new(2 * i + 1).unwrap(), i as usize);
        }
        for i in 0..10_000_u32 {
            assert_eq!(
                table.get(StreamId::new(2 * i + 1).unwrap()),
                Some(i as usize)
            );
        }
    }
}
