//! What the numbers of a driver's error reports say about the device.
//!
//! After NVIDIA's "Xid Errors" (docs.nvidia.com/deploy/xid-errors, with its catalogue of what to do at once:
//! restart the application, reset the GPU, restart the machine, nothing), its Health Validation's checks of them
//! (docs.nvidia.com/health-validation), and what its Kubernetes device plugin takes for an application's
//! (`internal/rm/health.go`: 13, 31, 43, 45, 68, 109). Where the first is all that is to be
//! done, the error is an application's: the driver ends the process that caused it, and a tenant that could
//! take a device from all others by a bad program would have been given a weapon.

/// Whose an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A process's. The driver ends it; the device is well.
    Application,
    /// The device's, and contained: it serves, and should be reset or looked at when that is convenient.
    Wear,
    /// The device's: nothing that it does can be relied on until it is reset.
    Fault,
    /// Nobody here knows. Told, and nothing is done about it.
    Unlisted,
}

/// What of [`class`] is known.
pub const LISTED: &[(u64, Class)] = &[
    // An idle timeout, a bad command stream, an exception of the graphics engine, a page fault, a channel
    // that was stopped, cleaning up after one.
    (8, Class::Application),
    (11, Class::Application),
    (13, Class::Application),
    (31, Class::Application),
    (32, Class::Application),
    (43, Class::Application),
    (45, Class::Application),
    // Switching contexts took too long.
    (109, Class::Application),
    // Video decoder, graphics class, copy engine with addresses that are not the process's.
    (68, Class::Application),
    (69, Class::Application),
    (137, Class::Application),
    // It stopped processing, as a whole.
    (46, Class::Fault),
    // A double-bit ECC error.
    (48, Class::Fault),
    // The internal micro-controller halted.
    (62, Class::Fault),
    // A page was retired or a row remapped; that this could not be recorded.
    (63, Class::Wear),
    (64, Class::Fault),
    // NVLink.
    (74, Class::Fault),
    // It fell off the bus.
    (79, Class::Fault),
    // Many single-bit errors.
    (92, Class::Wear),
    // An uncorrectable ECC error: contained to the process that met it; not contained.
    (94, Class::Wear),
    (95, Class::Fault),
    // A security fault.
    (110, Class::Fault),
    // The GPU's system processor did not answer, or failed.
    (119, Class::Fault),
    (120, Class::Fault),
    // An unrecovered ECC error; initialisation failed.
    (140, Class::Fault),
    (143, Class::Fault),
];

/// What this number says.
pub fn class(code: u64) -> Class {
    let listed = LISTED.iter().find(|(listed, _)| *listed == code);
    listed.map_or(Class::Unlisted, |(_, class)| *class)
}
