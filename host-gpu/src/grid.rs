//! Grids of workgroups, and cutting a grid into parts that run one after the other. Pure.

/// Number of workgroups along x, y and z.
pub type Grid = [u32; 3];

/// A part of a grid: its first workgroup, and its size in workgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GridPart {
    pub(crate) base: Grid,
    pub(crate) size: Grid,
}

impl GridPart {
    pub(crate) fn workgroups(&self) -> u64 {
        workgroups(self.size)
    }
}

/// Returns the number of workgroups of a grid.
pub(crate) fn workgroups(grid: Grid) -> u64 {
    grid.iter().fold(1, |product: u64, n| product.saturating_mul(u64::from(*n)))
}

/// Returns the next part of `grid` after the first `done` workgroups (in the order x, y, z), with at most `most`
/// workgroups, but at least one. A part is a piece of a row, whole rows, or whole planes. None if all are done.
pub(crate) fn next_part(grid: Grid, done: u64, most: u64) -> Option<GridPart> {
    let [x, y, z] = grid.map(u64::from);
    if done >= workgroups(grid) {
        return None;
    }
    let most = most.max(1);
    let at = [done % x, done / x % y, done / x / y];
    let size = if at[0] != 0 || most < x {
        [most.min(x - at[0]), 1, 1]
    } else if at[1] != 0 || most < x * y {
        [x, (most / x).min(y - at[1]), 1]
    } else {
        [x, y, (most / (x * y)).min(z - at[2])]
    };
    // Each number is at most that of the grid, which is u32.
    let narrow = |wide: [u64; 3]| wide.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    Some(GridPart { base: narrow(at), size: narrow(size) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_cover_a_grid_once_in_order(
            grid in prop::array::uniform3(0u32..9),
            sizes in prop::collection::vec(0u64..200, 1..6),
        ) {
            let mut seen = Vec::new();
            let mut done = 0;
            for most in sizes.iter().cycle() {
                let Some(part) = next_part(grid, done, *most) else { break };
                prop_assert!(part.workgroups() <= (*most).max(1) && part.workgroups() > 0);
                done += part.workgroups();
                for z in 0..part.size[2] { for y in 0..part.size[1] { for x in 0..part.size[0] {
                    seen.push([part.base[0] + x, part.base[1] + y, part.base[2] + z]);
                } } }
            }
            let mut all = Vec::new();
            for z in 0..grid[2] { for y in 0..grid[1] { for x in 0..grid[0] { all.push([x, y, z]); } } }
            prop_assert_eq!(seen, all);
        }
    }

    #[test]
    fn the_largest_grid_is_cut_without_overflow() {
        let grid = [65535; 3];
        let part = next_part(grid, 65535 * 65535 - 1, u64::MAX).unwrap();
        assert_eq!((part.base, part.size), ([65534, 65534, 0], [1, 1, 1]));
        assert_eq!(next_part(grid, 0, u64::MAX).unwrap().size, grid);
    }
}
