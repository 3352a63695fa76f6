"""The council: members that propose better answers, and the protocol by which one is accepted."""
