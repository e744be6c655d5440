//! Payloads that are longer than a frame.
//!
//! Spec: "Fragmentation And Reassembly" \[C210-C226].

mod join;
mod split;

pub(crate) use join::Join;
pub(crate) use split::{Cursor, Fragment};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Payload, frame::PayloadRef, proto::Limits};

    /// Payloads of 100 bytes at most, in 20 fragments.
    fn limits() -> Limits {
        Limits {
            max_payload_len: 100,
            max_fragments: 20,
            ..Limits::default()
        }
    }

    /// Cuts `payload` and joins it again; returns the fragments' lengths too.
    fn round_trip(payload: &Payload, fixed: usize, max_len: usize) -> (Payload, Vec<usize>) {
        let mut cursor = Cursor::default();
        let mut join = Join::default();
        let mut lens = Vec::new();
        loop {
            let (part, next) = cursor.next(payload, fixed, max_len);
            let metadata_len = part.metadata.map_or(0, |metadata| 3 + metadata.len());
            lens.push(fixed + metadata_len + part.data.len());
            let fragment = PayloadRef {
                metadata: part.metadata,
                data: part.data,
            };
            join.push(fragment, part.follows, &Limits::default())
                .unwrap();
            if !part.follows {
                return (join.finish(), lens);
            }
            cursor = next;
        }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0_u8..=250).cycle().take(len).collect()
    }

    proptest! {
        // [C211-C214, C218]
        #[test]
        fn what_is_cut_joins_to_the_same(
            metadata in prop::option::of(0_usize..400),
            data in 0_usize..1000,
            max_len in 61_usize..300,
            fixed in prop_oneof![Just(6_usize), Just(10)],
        ) {
            let mut payload = Payload::new(bytes(data));
            if let Some(len) = metadata {
                payload = payload.with_metadata(bytes(len));
            }
            let (joined, lens) = round_trip(&payload, fixed, max_len);
            prop_assert_eq!(&joined, &payload);
            prop_assert_eq!(joined.metadata().is_some(), metadata.is_some());
            // Full, all but the last: rsocket-java refuses short ones [C218].
            let (last, full) = lens.split_last().unwrap();
            prop_assert!(full.iter().all(|len| *len == max_len), "{lens:?}");
            prop_assert!(*last <= max_len);
        }
    }

    // [C212]
    #[test]
    fn metadata_goes_before_data_and_data_fills_its_last_fragment() {
        let payload = Payload::new(bytes(100)).with_metadata(bytes(70));
        let (first, next) = Cursor::default().next(&payload, 6, 61);
        assert_eq!(first.metadata.map(<[u8]>::len), Some(52));
        assert!(first.data.is_empty());
        let (second, _) = next.next(&payload, 6, 61);
        assert_eq!(second.metadata.map(<[u8]>::len), Some(18));
        assert_eq!(second.data.len(), 61 - 6 - 3 - 18);
    }

    // [C223]
    #[test]
    fn an_empty_fragment_that_others_follow_is_refused_unless_it_is_the_first() {
        let mut join = Join::default();
        let empty = PayloadRef::default();
        join.push(empty, true, &limits()).unwrap();
        assert!(join.push(empty, true, &limits()).is_err());
        assert!(join.push(empty, false, &limits()).is_ok());
    }

    // [C222]
    #[test]
    fn a_payload_over_the_limit_is_refused_before_it_is_kept() {
        let mut join = Join::default();
        let ten = PayloadRef {
            metadata: None,
            data: &[0; 10],
        };
        for _ in 0..10 {
            join.push(ten, true, &limits()).unwrap();
        }
        assert!(join.push(ten, true, &limits()).is_err());
        assert_eq!(join.len(), 100);
    }

    // [C222]
    #[test]
    fn a_payload_in_too_many_fragments_is_refused_however_short_it_is() {
        let mut join = Join::default();
        let one = PayloadRef {
            metadata: None,
            data: b"x",
        };
        for _ in 0..20 {
            join.push(one, true, &limits()).unwrap();
        }
        assert!(join.push(one, false, &limits()).is_err());
    }
}
