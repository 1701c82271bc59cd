// What leaves the registration is no exception at all.
#include "tenon/plugin.h"

TENON_PLUGIN(.id = "org.example.throws_an_int", .version = "0.1.0", .provides = {"patch:throws_an_int"})

TENON_REGISTER(tenon::Registrar& registrar) {
  registrar.patches.clear();
  throw 42;
}
