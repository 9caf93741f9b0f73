//! Any bytes are read without a panic, and what is read is written and read back alike.
#![no_main]

use announcer::wire::NdpFrame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = NdpFrame::parse(bytes) {
        assert_eq!(NdpFrame::parse(&frame.emit()), Ok(frame));
    }
});
