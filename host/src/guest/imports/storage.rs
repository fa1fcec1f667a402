pub struct Reader; pub struct Writer;
