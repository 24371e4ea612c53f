//! What can come to differ on a host without anyone asking for it.

use std::fmt;

use crate::spec::InstancePath;

/// One way in which an instance that runs is not what its record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drift {
    /// Its unit, or a drop-in of it that is Shoal's, was edited; this names the file.
    Unit(String),
    /// A file of the deployment is not what was rendered.
    File(InstancePath),
    /// Something that should be mounted inside is not.
    Mount(InstancePath),
    /// It runs from a file of its image that was damaged and has been fetched anew.
    Image,
}

impl Drift {
    /// Whether only a new container puts it right.
    #[must_use]
    pub fn needs_restart(&self) -> bool {
        match self {
            Self::Unit(_) | Self::File(_) => false,
            Self::Mount(_) | Self::Image => true,
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(file) => write!(f, "{file} was edited"),
            Self::File(path) => write!(f, "file {path} was changed"),
            Self::Mount(path) => write!(f, "{path} is not mounted any more"),
            Self::Image => f.write_str("its image file was damaged"),
        }
    }
}
