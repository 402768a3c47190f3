//! The table of positions for another grid of patches than the trained one.

/// Resamples `table: [side · side, width]` to `[height · columns, width]`: bicubic convolution (Keys 1981, a = −0.75), pixel
/// centres at halves, edges repeated, the same as the reference's `interpolate` without aligned corners.
pub(super) fn resample(
    table: &[f32],
    side: usize,
    width: usize,
    [height, columns]: [usize; 2],
) -> Vec<f32> {
    let (down, across) = (taps(side, height), taps(side, columns));
    let mut out = vec![0.0; height * columns * width];
    let mut rows = out.chunks_exact_mut(width);
    for vertical in &down {
        for horizontal in &across {
            let Some(sum) = rows.next() else {
                return out;
            };
            for &(row, a) in vertical {
                for &(column, b) in horizontal {
                    let source = &table[(row * side + column) * width..][..width];
                    for (sum, value) in sum.iter_mut().zip(source) {
                        *sum += a * b * value;
                    }
                }
            }
        }
    }
    out
}

/// For each of `to` places the four sources among `from` and their weights.
fn taps(from: usize, to: usize) -> Vec<[(usize, f32); 4]> {
    let scale = from as f32 / to as f32;
    let last = from.saturating_sub(1) as f32;
    (0..to)
        .map(|place| {
            let at = (place as f32 + 0.5) * scale - 0.5;
            let start = at.floor();
            [-1.0, 0.0, 1.0, 2.0].map(|offset| {
                let source = start + offset;
                (
                    source.clamp(0.0, last) as usize,
                    kernel((at - source).abs()),
                )
            })
        })
        .collect()
}

fn kernel(distance: f32) -> f32 {
    const A: f32 = -0.75;
    let x = distance;
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_grid_is_left_as_it_is_and_a_constant_stays_constant() {
        let table: Vec<f32> = (0..18_u8).map(f32::from).collect();
        assert_eq!(resample(&table, 3, 2, [3, 3]), table);
        let flat = resample(&[2.5; 18], 3, 2, [5, 4]);
        assert_eq!(flat.len(), 40);
        assert!(flat.iter().all(|value| (value - 2.5).abs() < 1e-5));
    }
}
