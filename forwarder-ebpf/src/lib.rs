//! What the kernel program and the agent share: map layouts, names, limits and drop reasons.
#![no_std]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]
