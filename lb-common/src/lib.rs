//! Shared between the XDP program and user space.
#![cfg_attr(not(test), no_std)]
