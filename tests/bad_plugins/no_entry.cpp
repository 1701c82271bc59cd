// A manifest, but no TENON_REGISTER.
#include "tenon/plugin.h"

TENON_PLUGIN(.id = "org.example.no_entry", .version = "0.1.0", .provides = {"patch:no_entry"})
