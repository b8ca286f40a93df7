//! How much one job may hold.

/// Bounds on the files of one job. The defaults are those that the documentation names.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that may be read into memory at once, for a plugin or a result. Larger costs the worker that much memory
    /// per job; smaller refuses products that a plugin could still look at.
    pub read_bytes: u64,
    /// Size of one file that is written or collected.
    pub file_bytes: u64,
    /// Sum of all files of the job, the model cache's not counted.
    pub scratch_bytes: u64,
    /// Number of files in the job's table.
    pub files: usize,
    /// Files taken from one command, declared and undeclared together.
    pub collected: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read_bytes: 256 << 20,
            file_bytes: 2 << 30,
            scratch_bytes: 8 << 30,
            files: 4096,
            collected: 1024,
        }
    }
}
