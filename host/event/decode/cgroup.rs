//! Records of the source cgroup.

use super::{Clock, DecodeError, Tail, Text, fixed};
use crate::event::layout::c::cgroup_record;
use crate::wit::cgroup::{CgroupCreated, CgroupRemoved};

/// A cgroup was made.
pub fn cgroup_created(bytes: &[u8], clock: &Clock) -> Result<CgroupCreated, DecodeError> {
    let cgroup_record { header, id, level, hierarchy, path_length, padding: _ } = fixed(bytes)?;
    let (time, task) = super::header(&header, clock);
    let path = Text::default().decode(Tail(&bytes[size_of::<cgroup_record>()..]).take(path_length)?);
    Ok(CgroupCreated { time, task, id, path, level, hierarchy })
}

/// A cgroup was removed.
pub fn cgroup_removed(bytes: &[u8], clock: &Clock) -> Result<CgroupRemoved, DecodeError> {
    let CgroupCreated { time, task, id, path, level, hierarchy } = cgroup_created(bytes, clock)?;
    Ok(CgroupRemoved { time, task, id, path, level, hierarchy })
}
