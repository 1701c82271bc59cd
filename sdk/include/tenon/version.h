#pragma once
// The SDK's version. The native tier is tied to the exact headers (see plugin.h); this number is for people.
#define TENON_SDK_MAJOR 0
#define TENON_SDK_MINOR 1
