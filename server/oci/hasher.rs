//! A running digest that can be put away and taken up again, so that an ingest survives a restart
//! without reading its bytes a second time.

use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::oci::digest::{Algorithm, Digest};

/// The running digest of the bytes given so far.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

/// What stands in front of a saved state. The rest is the private layout of the crate `sha2`, which may
/// change with any release of it: change this text with it, and states of the old kind are not taken up.
const FORMAT: &[u8] = b"sha2-0.11/1:";

impl Hasher {
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha384 => State::Sha384(Sha384::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha384(_) => Algorithm::Sha384,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes so far; more may follow.
    pub fn digest(&self) -> Digest {
        let value: &[u8] = match &self.0 {
            State::Sha256(state) => &state.clone().finalize(),
            State::Sha384(state) => &state.clone().finalize(),
            State::Sha512(state) => &state.clone().finalize(),
        };
        Digest::from_bytes(self.algorithm(), value).expect("a hasher gives as many bytes as its digest has")
    }

    /// The state as bytes for [`Hasher::restore`]: at most 256 of them.
    pub fn save(&self) -> Vec<u8> {
        let state: &[u8] = match &self.0 {
            State::Sha256(state) => &state.serialize(),
            State::Sha384(state) => &state.serialize(),
            State::Sha512(state) => &state.serialize(),
        };
        [FORMAT, self.algorithm().as_str().as_bytes(), b":", state].concat()
    }

    /// The hasher that was saved. `None` when the state is of another format, another algorithm or
    /// damaged: not an error, the caller reads the bytes again.
    pub fn restore(algorithm: Algorithm, saved: &[u8]) -> Option<Hasher> {
        let state =
            saved.strip_prefix(FORMAT)?.strip_prefix(algorithm.as_str().as_bytes())?.strip_prefix(b":")?;
        Some(Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(load(state)?),
            Algorithm::Sha384 => State::Sha384(load(state)?),
            Algorithm::Sha512 => State::Sha512(load(state)?),
        }))
    }
}

fn load<H: SerializableState>(state: &[u8]) -> Option<H> {
    let state: &SerializedState<H> = state.try_into().ok()?;
    H::deserialize(state).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_digest_so_far_can_be_asked_without_ending_it() {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(b"car");
        assert_eq!(hasher.digest(), Digest::of(Algorithm::Sha256, b"car"));
        hasher.update(b"go");
        assert_eq!(hasher.digest(), Digest::of(Algorithm::Sha256, b"cargo"));
    }

    #[test]
    fn a_state_of_another_kind_is_not_taken_up() {
        let saved = Hasher::new(Algorithm::Sha384).save();
        assert!(Hasher::restore(Algorithm::Sha384, &saved).is_some());
        // The two share their inner layout and differ in their result: the name in front keeps them apart.
        assert!(Hasher::restore(Algorithm::Sha512, &saved).is_none());
        assert!(Hasher::restore(Algorithm::Sha384, &saved[..saved.len() - 1]).is_none());
        assert!(Hasher::restore(Algorithm::Sha384, &saved[1..]).is_none());
        assert!(Hasher::restore(Algorithm::Sha256, b"").is_none());
        let mut older = saved;
        older[FORMAT.len() - 2] = b'0';
        assert!(Hasher::restore(Algorithm::Sha384, &older).is_none());
    }

    proptest! {
        #[test]
        fn a_saved_hasher_goes_on_as_if_it_had_never_stopped(
            bytes in prop::collection::vec(any::<u8>(), 0..600), at in 0..600usize, which in 0..3usize,
        ) {
            let algorithm = Algorithm::ALL[which];
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            let mut hasher = Hasher::new(algorithm);
            hasher.update(head);
            let saved = hasher.save();
            prop_assert!(saved.len() <= 256);
            let mut restored = Hasher::restore(algorithm, &saved).expect("its own state");
            restored.update(tail);
            prop_assert_eq!(restored.digest(), Digest::of(algorithm, &bytes));
        }

        #[test]
        fn a_damaged_state_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let saved = [FORMAT, b"sha256:", &noise].concat();
            if let Some(mut hasher) = Hasher::restore(Algorithm::Sha256, &saved) {
                hasher.update(b"more");
                hasher.digest();
            }
        }
    }
}
