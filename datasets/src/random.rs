//! Random numbers that have an address instead of a state.
//!
//! Every use of randomness names a seed, a purpose, an epoch and an index, and gets a generator of its own.
//! Nothing about randomness needs to be saved, and nothing depends on what was drawn before.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

/// The generator at one address. Its key is the sha256 of the address.
///
/// ```
/// use rand_chacha::rand_core::Rng;
/// use temper_datasets::random::rng;
///
/// assert_eq!(rng(1, "init", 0, 7).next_u64(), rng(1, "init", 0, 7).next_u64());
/// assert_ne!(rng(1, "init", 0, 7).next_u64(), rng(1, "init", 0, 8).next_u64());
/// ```
pub fn rng(seed: u64, purpose: &str, epoch: u64, index: u64) -> ChaCha8Rng {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    hasher.update((purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(epoch.to_le_bytes());
    hasher.update(index.to_le_bytes());
    ChaCha8Rng::from_seed(hasher.finalize().into())
}

/// A uniform number below `bound`, without bias; 0 if `bound` is 0.
///
/// Written here and not taken from a library, so that the order of the data never changes with one.
pub fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    if bound == 0 {
        return 0;
    }
    // The largest multiple of `bound` that fits; numbers from there on would favour small results.
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let number = rng.next_u64();
        if number < limit {
            return number % bound;
        }
    }
}

/// The order of `n` rows in an epoch (Fisher and Yates).
///
/// ```
/// use temper_datasets::random::permutation;
///
/// let mut order = permutation(42, 0, 100);
/// assert_ne!(order, permutation(42, 1, 100));
/// order.sort();
/// assert!(order.into_iter().eq(0..100));
/// ```
pub fn permutation(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    permutation_for(seed, "order", epoch, n)
}

/// An order of `n` things for a purpose of its own; see [`permutation`].
pub fn permutation_for(seed: u64, purpose: &str, epoch: u64, n: usize) -> Vec<usize> {
    let mut rng = rng(seed, purpose, epoch, 0);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, below(&mut rng, last as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_an_epoch_never_changes() {
        // Pinned: another order would break every interrupted run.
        assert_eq!(permutation(42, 0, 10), PINNED_FIRST);
        assert_eq!(permutation(42, 1, 10), PINNED_SECOND);
    }

    const PINNED_FIRST: [usize; 10] = [3, 4, 1, 0, 7, 5, 2, 8, 9, 6];
    const PINNED_SECOND: [usize; 10] = [7, 9, 1, 8, 0, 5, 2, 3, 6, 4];

    #[test]
    fn numbers_below_a_bound_are_spread_evenly() {
        let mut rng = rng(0, "test", 0, 0);
        let mut counts = [0_u32; 6];
        for _ in 0..60_000 {
            counts[below(&mut rng, 6) as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (9_600..10_400).contains(count)),
            "{counts:?}"
        );
        assert_eq!(below(&mut rng, 0), 0);
    }

    #[test]
    fn purposes_do_not_share_numbers() {
        let first = |seed, purpose: &str, epoch| rng(seed, purpose, epoch, 0).next_u64();
        assert_ne!(first(1, "a", 0), first(1, "b", 0));
        assert_ne!(first(1, "a", 0), first(2, "a", 0));
        assert_ne!(first(1, "a", 0), first(1, "a", 1));
    }
}
