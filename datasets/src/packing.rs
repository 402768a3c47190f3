//! Several short documents in one row.

/// How many rows are open at a time. More would fill rows better and search longer.
const OPEN_ROWS: usize = 64;

/// Puts documents into rows of at most `capacity` tokens: each into the first open row with room (first
/// fit), in the given order. Rows come in the order in which they were opened.
///
/// `lengths` are the documents' lengths by number. A document longer than `capacity` gets a row of its own.
///
/// ```
/// use temper_datasets::packing::pack;
///
/// let rows = pack(&[0, 1, 2, 3], |document| [6, 7, 4, 3][document], 10);
/// assert_eq!(rows, [vec![0, 2], vec![1, 3]]);
/// ```
pub fn pack(order: &[usize], lengths: impl Fn(usize) -> usize, capacity: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<Vec<usize>> = Vec::new();
    // (row, room left), oldest first.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for &document in order {
        let length = lengths(document);
        if let Some(at) = open.iter().position(|(_, room)| *room >= length) {
            let (row, room) = &mut open[at];
            rows[*row].push(document);
            *room -= length;
            if *room == 0 {
                open.remove(at);
            }
            continue;
        }
        if open.len() == OPEN_ROWS {
            open.remove(fullest(&open));
        }
        open.push((rows.len(), capacity.saturating_sub(length)));
        rows.push(vec![document]);
    }
    rows
}

/// The open row with the least room; of equals the oldest.
fn fullest(open: &[(usize, usize)]) -> usize {
    let least = open.iter().enumerate().min_by_key(|(_, (_, room))| *room);
    least.map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_well_filled_and_hold_every_document_once() {
        let lengths: Vec<usize> = (0..5000).map(|i| 1 + (i * 7919) % 300).collect();
        let order: Vec<usize> = (0..5000).rev().collect();
        let rows = pack(&order, |document| lengths[document], 512);
        let size = |row: &Vec<usize>| row.iter().map(|document| lengths[*document]).sum::<usize>();
        assert!(rows.iter().all(|row| size(row) <= 512));
        let mut seen: Vec<usize> = rows.concat();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..5000));
        let filled = lengths.iter().sum::<usize>() as f64 / (rows.len() * 512) as f64;
        assert!(filled > 0.97, "{filled}");
    }
}
