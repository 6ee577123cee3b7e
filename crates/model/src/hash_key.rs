//! The secret under which the words of features with `log = "encoded"` become slots.

use core::{fmt, hash::Hasher as _, str::FromStr};

use pawl_domain::{ModelName, Sha256};
use siphasher::sip::SipHasher24;

/// A secret of one model. Without it a slot tells nothing of its word, not even by trying all words: SipHash-2-4 is a
/// pseudorandom function (Aumasson & Bernstein 2012). The default is no secret: for runs that keep nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(Sha256);

impl Default for HashKey {
    fn default() -> Self {
        Self(Sha256([0; 32]))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HashKey({})", self.fingerprint())
    }
}

impl FromStr for HashKey {
    type Err = pawl_domain::id::InvalidId;

    /// Reads [`HashKey::reveal`].
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl HashKey {
    /// The key of a model under the secret of its data directory.
    #[must_use]
    pub fn of(secret: &[u8; 32], model: &ModelName) -> Self {
        Self::derived(secret, model.as_str())
    }

    /// The key of whole requests under the secret of their data directory. No model has its label for a name.
    #[must_use]
    pub fn of_requests(secret: &[u8; 32]) -> Self {
        Self::derived(secret, ":request")
    }

    fn derived(secret: &[u8; 32], label: &str) -> Self {
        Self(Sha256::of(&[secret.as_slice(), label.as_bytes()].concat()))
    }

    /// The secret itself, in hexadecimal.
    #[must_use]
    pub fn reveal(&self) -> String {
        self.0.to_string()
    }

    /// What may be shown: it tells keys apart, and nothing of them.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Sha256::of(&self.0.0).to_string()[..16].to_owned()
    }

    /// The hash of a word.
    #[must_use]
    pub fn hash(&self, word: &[u8]) -> u64 {
        let key: [u8; 16] = core::array::from_fn(|i| self.0.0[i]);
        let mut hasher = SipHasher24::new_with_key(&key);
        hasher.write(word);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first vectors of the reference implementation (`vectors_sip64` in github.com/veorq/SipHash), key 00 01 … 0f, input
    /// empty, then 00, then 00 01.
    #[test]
    fn words_are_hashed_as_siphash_2_4_does() {
        let mut bytes = [0; 32];
        (0..16).for_each(|i| bytes[i] = i as u8);
        let key = HashKey(Sha256(bytes));
        let found = [&[][..], &[0], &[0, 1]].map(|input| key.hash(input).to_le_bytes());
        assert_eq!(
            found,
            [
                [0x31, 0x0e, 0x0e, 0xdd, 0x47, 0xdb, 0x6f, 0x72],
                [0xfd, 0x67, 0xdc, 0x93, 0xc5, 0x39, 0xf8, 0x74],
                [0x5a, 0x4f, 0xa9, 0xd9, 0x09, 0x80, 0x6c, 0x0d],
            ]
        );
    }

    #[test]
    fn each_model_has_its_own_and_none_is_shown() {
        let of = |name: &str| HashKey::of(&[7; 32], &name.parse().unwrap());
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a").reveal().parse::<HashKey>().unwrap(), of("a"));
        assert!(!format!("{:?}", of("a")).contains(&of("a").reveal()[..8]));
        assert!("12".parse::<HashKey>().is_err());
    }
}
