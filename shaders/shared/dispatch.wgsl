// Where a workgroup stands in a dispatch that was folded to two dimensions because one holds at most 65,535 groups.
fn workgroup_index(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.x + id.y * count.x;
}
