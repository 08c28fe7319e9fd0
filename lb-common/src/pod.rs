//! Plain-old-data types that both the kernel and user space read: the [`pod!`](crate::pod!) macro.
//!
//! A struct made by the macro is `repr(C)`, has no hidden padding (checked when it is compiled)
//! and no bit pattern that is invalid, so bytes from a map or a packet are always a value.
//!
//! Must not know: any service concept.
#![allow(unsafe_code)] // The two unsafe traits below are this module's whole purpose.

/// Types that any bytes of the right length are a valid value of.
///
/// # Safety
/// The type is `repr(C)`, consists of integers and arrays of integers only, and has no padding.
pub unsafe trait Pod: Copy + 'static {}

// SAFETY: integers have no padding and no invalid values.
unsafe impl Pod for u8 {}
// SAFETY: as above.
unsafe impl Pod for u16 {}
// SAFETY: as above.
unsafe impl Pod for u32 {}
// SAFETY: as above.
unsafe impl Pod for u64 {}
// SAFETY: an array of values without padding has none.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Declares a shared struct: `repr(C)`, no hidden padding, [`Pod`], and `aya::Pod` in user space.
#[macro_export]
macro_rules! pod {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$fmeta:meta])* $fvis:vis $field:ident : $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name {
            $($(#[$fmeta])* $fvis $field: $ty),*
        }
        const _: () = assert!(
            ::core::mem::size_of::<$name>() == 0 $(+ ::core::mem::size_of::<$ty>())*,
            concat!(stringify!($name), " has hidden padding"),
        );
        // SAFETY: repr(C), made of Pod fields (checked below), without padding (checked above).
        #[allow(unsafe_code)]
        unsafe impl $crate::pod::Pod for $name {}
        const _: fn() = || {
            fn is_pod<T: $crate::pod::Pod>() {}
            $(is_pod::<$ty>();)*
        };
        #[cfg(feature = "user")]
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe impl ::aya::Pod for $name {}
        impl $name {
            /// The value whose bytes are all zero.
            #[inline(always)]
            pub const fn zeroed() -> Self {
                // SAFETY: every bit pattern of a Pod type is a value.
                #[allow(unsafe_code)]
                unsafe { ::core::mem::zeroed() }
            }
        }
    };
}

/// A 16-byte address: an IPv6 address, or an IPv4 address as `::ffff:a.b.c.d` (RFC 4291 2.5.5.2).
pub type Address = [u8; 16];

/// The IPv4-mapped form of an IPv4 address.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// The third word of an IPv4-mapped address, as it lies in memory; the two before it are zero.
pub const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// The IPv4-mapped form of an address as words: what [`mapped`] is as bytes.
#[inline(always)]
pub const fn mapped_words(v4: u32) -> [u32; 4] {
    [0, 0, MAPPED, v4]
}

/// Whether these words are an IPv4-mapped address.
#[inline(always)]
pub const fn is_mapped(a: &[u32; 4]) -> bool {
    a[0] | a[1] | (a[2] ^ MAPPED) == 0
}

/// The IPv4 address inside an IPv4-mapped one.
#[inline(always)]
pub const fn unmapped(a: &Address) -> [u8; 4] {
    [a[12], a[13], a[14], a[15]]
}

/// The head of a shared value, read as another type: for words where the fields are bytes.
#[inline(always)]
pub fn head<T: Pod, H: Pod>(value: &T) -> &H {
    const {
        assert!(size_of::<H>() <= size_of::<T>() && align_of::<H>() <= align_of::<T>());
    }
    // SAFETY: both are Pod; H is no longer and no more strictly aligned than T (checked above).
    unsafe { &*core::ptr::from_ref(value).cast() }
}

/// See [`head`].
#[inline(always)]
pub fn head_mut<T: Pod, H: Pod>(value: &mut T) -> &mut H {
    const {
        assert!(size_of::<H>() <= size_of::<T>() && align_of::<H>() <= align_of::<T>());
    }
    // SAFETY: as in `head`; any bytes written through H leave a valid T.
    unsafe { &mut *core::ptr::from_mut(value).cast() }
}

/// The bytes of a shared value, for files, packets and raw system calls.
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: T is Pod: no padding, so every byte of it is initialised.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The value at the head of `bytes`; `None` when they are too few.
pub fn from_bytes<T: Pod>(bytes: &[u8]) -> Option<T> {
    (bytes.len() >= size_of::<T>())
        // SAFETY: T is Pod: any bytes are a value, and there are enough of them.
        .then(|| unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
}
