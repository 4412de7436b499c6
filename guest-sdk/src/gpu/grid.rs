//! Grids: the number of workgroups of a dispatch.

use crate::bindings::gannet::gpu::batch as wit_batch;

/// Workgroups along x, y and z.
///
/// ```
/// # use gannet_sdk::gpu::Grid;
/// let planes = Grid { x: 16, y: 16, z: 3 };
/// ```
pub type Grid = wit_batch::Grid;

/// The smallest grid that covers `count` invocations with workgroups of `size` invocations. The last workgroup may
/// reach beyond `count`, so kernels check their index.
///
/// ```
/// # use gannet_sdk::gpu::grid_1d;
/// assert_eq!(grid_1d(100, 64).x, 2);
/// ```
pub fn grid_1d(count: u32, size: u32) -> Grid {
    Grid { x: count.div_ceil(size.max(1)), y: 1, z: 1 }
}

/// The smallest grid that covers `dimensions` (width, height) with workgroups of `size` × `size` invocations. The last
/// workgroups may reach beyond `dimensions`, so kernels check their index.
///
/// ```
/// # use gannet_sdk::gpu::grid_2d;
/// assert_eq!((grid_2d((640, 481), 8).x, grid_2d((640, 481), 8).y), (80, 61));
/// ```
pub fn grid_2d(dimensions: (u32, u32), size: u32) -> Grid {
    let size = size.max(1);
    Grid { x: dimensions.0.div_ceil(size), y: dimensions.1.div_ceil(size), z: 1 }
}
