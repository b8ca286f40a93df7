//! What is executed, laid out for the system call beforehand: nothing may be allocated once the child is there.
//!
//! The standard library would search and, worse, hand a file that the system cannot run (one for another processor, say)
//! to a shell. So the system call is made directly.

use std::ffi::{CString, OsString};
use std::io;
use std::iter;
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use super::Program;

pub(super) struct Image {
    program: CString,
    directory: CString,
    arguments: Table,
    environment: Table,
}

impl Image {
    /// Fails where something holds a NUL.
    pub(super) fn new(program: &Program, environment: &[(OsString, OsString)]) -> io::Result<Self> {
        let path = program.path.as_os_str();
        let arguments = iter::once(path.to_owned()).chain(program.arguments.iter().cloned());
        let variables = environment.iter().map(|(name, value)| {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            variable
        });
        Ok(Self {
            program: CString::new(path.to_owned().into_vec())?,
            directory: CString::new(program.directory.clone().into_os_string().into_vec())?,
            arguments: Table::new(arguments)?,
            environment: Table::new(variables)?,
        })
    }

    /// Becomes the program, in its directory. Comes back only with the reason why not. The child calls it.
    #[allow(
        unsafe_code,
        reason = "system calls on strings and arrays that were laid out for them"
    )]
    pub(super) fn execute(&self) -> io::Error {
        // SAFETY: the path ends in NUL, the tables end in null, and all outlive the call.
        unsafe {
            libc::execve(
                self.program.as_ptr(),
                self.arguments.pointers.as_ptr(),
                self.environment.pointers.as_ptr(),
            );
        }
        io::Error::last_os_error()
    }

    /// Goes to the program's directory. The child calls it.
    #[allow(unsafe_code, reason = "a system call on a string laid out for it")]
    pub(super) fn enter_directory(&self) -> io::Result<()> {
        // SAFETY: the string ends in NUL and outlives the call.
        super::child::check(unsafe { libc::chdir(self.directory.as_ptr()) })
    }
}

/// Strings, and the array of pointers to them that ends in null.
struct Table {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Table {
    fn new(strings: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let strings = strings
            .map(|string| CString::new(string.into_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(iter::once(ptr::null()))
            .collect();
        Ok(Self {
            _strings: strings,
            pointers,
        })
    }
}
