pub mod nn; pub mod storage;
