pub struct HeldTensor; pub struct Graph; pub struct Context; pub struct NnError;
