//! The size of OFT's rotation blocks.

/// The size that a layer of `inputs` inputs really gets when `asked` does not divide it: the
/// nearest divisor, the smaller one of two equally near; `inputs` itself when `asked` is as large.
///
/// PEFT applies the same rule to the number of blocks when that is what was asked for. Returns 0
/// when either number is 0.
///
/// ```
/// use temper_adapters::peft::adjust_block_size;
///
/// assert_eq!(adjust_block_size(5, 16), 4);
/// assert_eq!(adjust_block_size(7, 24), 6); // 6 and 8 are equally near
/// assert_eq!(adjust_block_size(32, 16), 16);
/// ```
pub fn adjust_block_size(asked: usize, inputs: usize) -> usize {
    if asked == 0 || asked >= inputs {
        return if asked == 0 { 0 } else { inputs };
    }
    let divides = |size: &usize| inputs.is_multiple_of(*size);
    let lower = (1..=asked).rev().find(divides).unwrap_or(1);
    let higher = (asked..=inputs).find(divides).unwrap_or(inputs);
    if asked - lower <= higher - asked {
        lower
    } else {
        higher
    }
}

/// Block size of a packed rotation with `cols` columns, the inverse of
/// [`cols_from_block_size`]; `None` when no block has that many parameters.
///
/// ```
/// use temper_adapters::peft::block_size_from_cols;
///
/// assert_eq!(block_size_from_cols(28), Some(8));
/// assert_eq!(block_size_from_cols(27), None);
/// ```
pub fn block_size_from_cols(cols: usize) -> Option<usize> {
    let size = cols.checked_mul(2)?.isqrt() + 1;
    (size > 1 && cols_from_block_size(size) == cols).then_some(size)
}

/// Packed parameters of one skew-symmetric block of size `size`: `size * (size - 1) / 2`.
pub fn cols_from_block_size(size: usize) -> usize {
    size.saturating_mul(size.saturating_sub(1)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisors_are_kept_and_others_move_to_the_nearest() {
        for (asked, inputs, given) in [
            (4, 16, 4),
            (16, 16, 16),
            (99, 16, 16),
            (3, 7, 1),
            (5, 7, 7),
            (11, 24, 12),
            (2, 9, 1),
        ] {
            assert_eq!(
                adjust_block_size(asked, inputs),
                given,
                "{asked} of {inputs}"
            );
        }
        assert_eq!(adjust_block_size(0, 16), 0);
        assert_eq!(adjust_block_size(4, 0), 0);
    }

    #[test]
    fn columns_give_the_block_size_back() {
        for size in 2..300 {
            assert_eq!(block_size_from_cols(cols_from_block_size(size)), Some(size));
        }
        for cols in [0, 2, 4, 5, 7, 27, usize::MAX] {
            assert_eq!(block_size_from_cols(cols), None, "{cols}");
        }
    }
}
