//! A monitor played by the test.
