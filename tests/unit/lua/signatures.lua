---------
-- Keys and signatures that no spec could make by itself: those of the RFCs, and such as a fair
-- signer makes once in 2^128 times (the public key was computed from the signature). Base64url.

return {
    --- RFC 7515 appendices A.2 and A.3, RFC 8037 appendix A.4.
    RS256 = {
        key = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAofgWCuLjybRlzo0tZWJj"
            .. "NiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEz"
            .. "P1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo"
            .. "9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTB"
            .. "EMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxX"
            .. "FvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXp"
            .. "oQIDAQAB",
        text = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODA"
            .. "sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7"
            .. "AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4"
            .. "BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K"
            .. "0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv"
            .. "hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB"
            .. "p0igcN_IoypGlUPQGe77Rw",
    },
    ES256 = {
        key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7"
            .. "6e8Tus9uPHvRVEXH8UTNG72bfocs3-257rn0s2ldbqkLJK2KRiMohYjlrQ",
        text = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODA"
            .. "sDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSA"
            .. "pmWQxfKTUJqPP3-Kg6NU1Q",
    },
    EdDSA = {
        key = "MCowBQYDK2VwAyEA11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        text = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
        signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5B"
            .. "hVsPt9g7sVvpAr_MuM0KAg",
    },
    --- ES256 signatures with extreme numbers.
    EXTREME = {
        {
            what = "the least r and s of 1",
            key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEgfYx7NPDgUPNrrA4L5HRBopV71a9"
                .. "awW6cmgBFmLZqt8X00CLPx7jYSJeSDEBXrEutshlhr7eOD9hi837E-eajQ",
            signature = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAUAAAAAAAAAAAAAAAAAAAAA"
                .. "AAAAAAAAAAAAAAAAAAAAAQ",
        },
        {
            what = "the largest r and s of n - 1",
            key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPKfTtnW83JpHQIEOk4yc10rUVpIZ"
                .. "LxjcAYjPpzmXG03FdKpIzWIVpcowIR3glu0LnknPc_psgVz_asmthoMDBw",
            signature = "_____wAAAAD__________7zm-q2nF56E87nKwvxjJU______AAAAAP__________"
                .. "vOb6racXnoTzucrC_GMlUA",
        },
        {
            what = "an r with leading zeros",
            key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEN61ogmyi_WFmb3q7RuTcgiuCIir4"
                .. "hQxuE10AIax99yuhk3t6XomzDlH3W4I904H9orZ4md9O6ko07g2KP_kH0w",
            signature = "AAEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAMDmAAAAAAAAAAAAAAAAAAAAA"
                .. "AAAAAAAAAAAAAAAAAAAAYw",
        },
        {
            what = "an s with leading zeros",
            key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEW75_45_WqKj2XS4xT3my0nHwl-jH"
                .. "WRm24xnfQtuqvl-1p2xGrTr7HoTMxPBhN6_Tw4-75fit9Cqyt2LjyIvQXA",
            signature = "gAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQAAAAAAAABAAAAAAAAAAAA"
                .. "AAAAAAAAAAAAAAAAAAAABw",
        },
        {
            what = "an r and s whose first bit is set",
            key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEhDTssK1WMaKyzwPwYGu2_-Fi9OK2"
                .. "z7Em14VBAedTcyMoLIREgZFyShpAhsBuq0mCsbFRPxW-CNATO3XEVGIEEQ",
            signature = "gAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAASAAAAAAAAAAAAAAAAAAAAA"
                .. "AAAAAAAAAAAAAAAAAAAAAQ",
        },
        {
            what = "an r whose second byte has its first bit set",
            key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEcKaZyEtNb1-pEAG7I8mRMNXT4PbA"
                .. "pl1OG8B7x0H8QOgOqtoK73g2l1TEaR9O677pOxfseCDtlP3VkL3pLr3u6w",
            signature = "AIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEAgAAAAAAAAAAAAAAAAAAA"
                .. "AAAAAAAAAAAAAAAAAAAAAQ",
        },
    },
    TEXT = "a text that was signed",
    --- Public keys: kind -> DER.
    KEYS = {
        ["RSA 1024"] = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDXRrZSa_OUl9GlNaaafRowcMcb"
            .. "sqQF1zlCHMBZJrNew2D3jEInjYv1KKEA3eyw8i5Eal0adJltsznGKoKxeqclhHG4"
            .. "JfL-zudfE4M8KXawrGEO-BO9CWJh82JKmRJID6PjTcBvx81CEqU2SX-kfDTUxyEK"
            .. "sONaWRI68iSzqK5ElQIDAQAB",
        ["RSA 2040"] = "MIIBITANBgkqhkiG9w0BAQEFAAOCAQ4AMIIBCQKCAQAAu8DgiRqI7d_Kmtwg5Aep"
            .. "DpQw671pfsO_7PSfmTvS5szbib0F50-mwTjvVyLFGAdGEkx6196K6c2W75Mq62va"
            .. "4p5WS2fCUnGwNxXJy8NaoxQ_ZWilbCbC-OPg2iceVFsTOpSxT1VjXSg5u4A7IHad"
            .. "wDR-3M1_QnpWslPAewtB_9wOU4Ulv2N0U5BaawAhlr0mwZBw2yF_BLpNXo2OK4Ab"
            .. "JXMwPkERqPF2nQHhSWqdEE1xJZ1cpNpQ8U18Oa6TaS9rdFmzXA3VzxO66ef-kA2C"
            .. "t-AY07_ZumaaaEcRZl1ZpVhL2KLHWFGvhmT_VdArChpG2kFstGp4mQTXgkips28L"
            .. "AgMBAAE",
        ["RSA 2048"] = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAxsalBA6HHQiVGeGKCIsm"
            .. "JXqEmhagnTUwVCFl3ZW6t6F0rX-NwhxjnCDNdXeBzW4VW2q9R7taJnBNxGN92ik7"
            .. "o3rmHPeg98Xb5IQN7lB8KaTKpY9Q1kSR1MZlBCACpHvYm8tSIJyKlL1jMeMngIB0"
            .. "i9OynnNQsPkRaG0_ylyW89NCe2TLHOP3epWb1_Hz3Ws-okXHsJ_AOn9Uak_3qT2p"
            .. "MwLLFNybFyIsXnbfBch4ZIjpkDHYcVl2bE0mRKCJys0w-WtngoFKDn57suq7Vxq0"
            .. "vjjfAvTDHOYPpPPH4pgrsUgNBsf-COChDHHd7Zn90IR1kl4b6Q5lDDbBGWhVAgLi"
            .. "OwIDAQAB",
        ["RSA 3072"] = "MIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEA17YNoot1g9oPUcxUbP1q"
            .. "RGalJB2C2G5aAw4JMfYxwc0o2yQKKY-OoIAOEnf3719uyQeqMj1pInyMaFGx9V3P"
            .. "R_UosDn9LXUK_Se2LSN3gqp9ey-OrHIoT9ta0Y1HSMWDIE1TWUN0AMGuMOKsp6XV"
            .. "HMRMfJZE1MhABRyxW7VqwHnzTB4kQ2GVI-Y3H2bAJ9OGpX6Gpz_qLdomYiOsJL47"
            .. "08pQrmjrnC7ScNIoXA4f2LaRIya0nMA555-1X3d0XlkRMwJTKeLS_vJDXwOgWQyS"
            .. "YRIVVZhBVNl-ax0wgGH9bCPJ1u-EnanYPkn7sjVohCHrBcbPyqXPshPDzXbPiR6s"
            .. "qrAsmBKKpZ2IZ-exI8dcWRyvmcn1AQSUGdPxTz2JE4qJusZwNvBVng7soEGC0bBu"
            .. "lBzDP0p2em8h_4tnA9rxzUn465uj8DlFTaorJJUA_8EpApPWF5Y99y0HomqlaXgU"
            .. "jHwqp0-gpp6uVG_hZ_pcdjQlxZp2dEacYYnQE_vv74W3AgMBAAE",
        ["RSA 4096"] = "MIICIjANBgkqhkiG9w0BAQEFAAOCAg8AMIICCgKCAgEAiBV1xHAwcjuQt21nv9rQ"
            .. "aMKxCHFaO30i0upkI8kdcygJ7JwTU20OifbIJ9GTbS3I9jknx_aTzh1UGqvQcGo9"
            .. "jQ11In-5HNarH2HEk1QkfGwBAitpqZ3K1ijwdOEdq5tTEr35ImtHUwOh4jAlDfPg"
            .. "dzPQ2S4CEtSrKh5WZREws0P-SwbWHlCyoU-gjF_9CWGMN1B0JHnqvT3almbX6I6X"
            .. "HpwvNlaV2s0rwHCytgrmwuJarJaUJOLV3NpSdf6Sn9oMO4jOSARNmU2KLZH5aiTH"
            .. "66D_XrUNkxMrOJ1zLlmOU10j1SKNRyFJPrvQ9AW0QzsViSzINdRjCS1-9Q81-NNW"
            .. "kvUpRnJPKCVuymGTfe0mCsumw5Jb2FwPelbXwhRDF4td1yDW148FFP69fg5sxCs4"
            .. "CuStyrO9GAEeLDYkiSHZhpJpS9ATAcsoqI_JS0oXftNF2ZlQGmBYHcAZTKbkkTjU"
            .. "7nGY6x9toJiJg2b8EgyoxlKgpSF2ioker4jQsiAo0-XToih5keafLuvGhROjY0hD"
            .. "6ATgYAfN7XTteNjG75NvZRlKz71tluenVgDH5fsBRSbEGDg-5dWnr73qnv0T4SNZ"
            .. "gOqx4ltvHB5MfaRAVnSZuv18ELIP8Wo-WCKiTFU5OenMiZ_vhrzUqK2tPlKooYov"
            .. "d78DcEvTXn-WQSKOINpZPYUCAwEAAQ",
        ["P-256"] = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEHnE44rurARcQTCwUPQq6UWtCfldB"
            .. "4x9l3W4Vj5a69Cb1RmiRR31XFHLegdD14MNhA-hAZuf7rUJwIKtNZgF4eA",
        ["P-384"] = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEGoVwXVY8Ib3XBGBwcODmoXHbeb_nQxu7"
            .. "GZPV4-Kzy2IN3iZI8r2rf6jTtzc_d14CPxBnOl5rt1sJjEvmdO0ST87OFl4hMHCm"
            .. "5EU9nuELESsatDAn2x0eHzMjW72C2HPV",
        ["secp256k1"] = "MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEkl9j4vGqqCV1Tpb6AuBN59eeLzDs5o6f"
            .. "6Lh47QGVlNJAFrkXzEIqCcoDIAdU-1QOm-WUGeaapBKFl_zcEX0Jpg",
        ["brainpoolP256r1"] = "MFowFAYHKoZIzj0CAQYJKyQDAwIIAQEHA0IABFhpXftNayrr5wyQ4QgT9k0wtb5s"
            .. "0ka-lFJiAPqpIkYfbHPlA3vS5mif-8lSorX3uzPYeRyogFOIM_74o54Jzh8",
        ["P-224"] = "ME4wEAYHKoZIzj0CAQYFK4EEACEDOgAE0SotFwUeQUgB7RVEwR5A0pt-eEhGHh2t"
            .. "EmlW_JWKz15LNmLDWdyyZiEQICg0NJDMnKtckG7Pvyw",
        ["Ed25519"] = "MCowBQYDK2VwAyEArJ_pNW-vpVs8jqpS9hx1pt2kFsgR0et_VNy5n0QXuoQ",
        ["Ed448"] = "MEMwBQYDK2VxAzoA4lxgFwKVMPKY_qIit9-ECDEgGgbdj9fszTypAMejU_p8d984"
            .. "2uInqTvVIUdmKg1GSmCB7-8UhAkA",
        ["X25519"] = "MCowBQYDK2VuAyEAKSSIm4JEV4gBjAeTl4tWj-v1O4mJOd51nqfDFQh54j4",
        ["DSA"] = "MIIDRjCCAjkGByqGSM44BAEwggIsAoIBAQCXWKZuOY-ZQ-tfJkPvD-VdBztnNM3v"
            .. "ZPkjzU4SVp25Ns1r0Afnxzir1Q4PCxIBjK3tlpNWy-_lqWgHfZmel7Ayn45u9X2b"
            .. "eKa-ma4VD_W_Nc8Sv7keEHZYh_7xWKsxcpGbp7qz2Hl8FJN3Gb74vm7erseBVm4c"
            .. "aucF6QXu23ZdeFoiJRJ_aZSpW3WEzAosZxKNI4Q9U5nOSAwAVVhc8YNI1_tvKxD5"
            .. "1w5w0iy1rClsibe5gsOir24UnRASKlPZoUe6lP37zFoVzKiSex2zGmRitlo3ibVr"
            .. "5KeXhmXYLblVgQVDhGowv58ePVKIVJOQhbViGH_UQXy9J5efMs-ct6nLAiEAutpq"
            .. "afKKghF1QNl7ujmMjS709bs_r7cGNIDYK3STLzkCggEAeL54O-78mWPRfZeJKj0b"
            .. "6hdxd8ZpBkUUiBinmM0shcVY2yjCQJb8dwiyeJmRFzJU0XN8sScPorvZiBEzJMBR"
            .. "ntckdFycTfP_VO51xIZcHKP2A6q7y06pZJiCrOmvYDiz5mWBFKzUZwQ7N8tCewrz"
            .. "w8_PCvbSvdT8IKYVlVAn62wO6aWNpGm1akucGZAdhAyzJJ6YJpouzc5d5WeqHQxJ"
            .. "i87Xw41JHBMbAmd4BJfV_VBAf8rQEyWHhiuJo59sji6PDjAaw-5G3rLssQt0FtED"
            .. "GcqfoLAW9M8A0eaU7kTvlz8J-fMZdBk8yUQHSZJT7xGiQFIz-WVKKxx4rxZ6xiUX"
            .. "BAOCAQUAAoIBAAHASWNIJrJZSAAjuhlXsOfnBqVqzDwu0c2ZDo9Gtqaewud6heQP"
            .. "M_UiP92Ruwzu-I1OAkyJJGlj_zq2ZPeYXOTZQUFYsWkFQ5eBI_REHzK4p47SVetM"
            .. "CWwSuP3cJDuvVgmB41AD43ze7m4WbOZ5hcs_UNXUbUQVanw63fGnpp6j3JB8l0Zt"
            .. "RqphGexWYI6q8J9hQLbolY2UxFQ3JXtUXvDldMXnUO9tjl3Pk9DKtXNL8oE2kzS8"
            .. "2BaLAGaQKGdYVM4dw1Pc9tXgimKgbZCZgc_ID1PYEDmpQs_EENQXe-zC70ZWNvvw"
            .. "x_soevCL9jc4XokXuUxFLjRXMu-x2AkpIaY",
    },
    --- Private keys, which no gateway may take: kind -> PKCS #8 in DER.
    PRIVATE = {
        ES256 = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgYbduvS_i0JUV5Ji-"
            .. "Rtm0BovF5R7s5s291rKC8Ayt9xWhRANCAATRB1T4v0bD5LwO1zhspZ5SgV5JAeub"
            .. "pf6PB0adWXojgIvAg0df7W88kJGcIBLmVbk3w171V2UD3SSSnNjT1cRj",
        EdDSA = "MC4CAQAwBQYDK2VwBCIEIAmocrXJp1JV4JEXL3gneTKXSRSVGRdv8fW46XXnnFVs",
        RS256 = "MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQCae8JYAdVvv33J"
            .. "kM2pK2RrwoACEAEW_lKyDScTIkT00XJvuguLOf_E5LSoE_aAgIdoBSCH6HIDPBNZ"
            .. "FsRP3KFdGaCq4rDV8RHEnksueA6OPzsDYl4f8n-BsG_otVVAkjl1N5vM1567SliB"
            .. "EPWAnHUXQj07zEihjWXeYLkEp1ZZnfGsp2_BWyfgPyhAsgBkdH2h26iklW3Dy91U"
            .. "eDbzYzaHESs-PLOGMbMts1CvqP8XV5hc3_asFitqsH4J_7CAS_1I7y_I8YYKct1r"
            .. "jlOlaEQBJWsehWH9mp0tGNNTpdir6Em6-TD-AUJzadoruTJFVAHmg7yxq8WUGhJu"
            .. "gFU_lM0PAgMBAAECggEAHPPF1A2f7T4TuoOXb7WQr_t3VyudsKwAXptFb_oTt1hL"
            .. "nLHe-PxpOYLtcrSvFZ1BA1c2phID0CRhsego6Zi9az_i0zQCFU6FWHacO3zHqZQj"
            .. "ILq-Tjl5-RnSl2fort3Yw-WknuroNky0Mpg1kqF_9lh1NnBOSmzAI0G4Wy1rawb6"
            .. "uPB0kBzlD8ruGPCHIXR9PQDK8W4eCUjstrJV0jEvlMSMbeEys0B2k1YcRa9bS4jG"
            .. "0teerVOgrPaihe0RtbwmeTp06ezlMdMAsiTbnNzMWH5cNeFJFA6t51aPpx3TQtK_"
            .. "Jxso2FI1B95AaX4HkbUlB-3EQ6mvzOIORq3Veg7DLQKBgQDS8HJtnRZ2h91j72-U"
            .. "c_wz9WKWUubGbM_EkPGOXD4zQW_m9HU2faQw7BMnABNkHY5haEq8w7PMdvoDiwvj"
            .. "Og2NWLlUGbC4LavVdDt2xXpI5oEvWlWOnzi5JZoDUObFUnkk4DBHNzb14dMYuEga"
            .. "Ia7XbhlEz_Bct8zjDrb5M6p7TQKBgQC7e-9c0PYKEYxcc2L_TBzQ1AAaFAyaSK1V"
            .. "FHUBI8_CtnrW1Z7VSEPwFJyuCoIA1goRz7FNBYbAcRCE4nwMKSkvDsG69CG2_lHS"
            .. "bb16Y3gx1LB0FAZUK0__hTgSnsO8iVyYMMkaDxejjdImwxUynWn6aoSfLpx62Kgz"
            .. "nwVaFu-jywKBgQCHSrT53RE1QPscR8v3GVUfNjnfVJizl8LCvnxP5JX4ZfYR2aT8"
            .. "KCWRQzkdgIzvX42cqDmXTKYbdAvzDdG4EdnzWH61lCymVJSruXsSOKKv8zfUWUoa"
            .. "ycCl75oSmmcJFFai8i_E3YMgvZCZgEiuigAMKI-IdR4jObftwdhViW_E2QKBgByM"
            .. "G39bhgs0btXo7-sFsOGPVlCiOuUHKfVpfwNka48vb_bkYiIBte6JhO3vRapQ7QmX"
            .. "QV0D-We2D5jcT50ea1nx-ke4QqX1hYnwEcjf-n5D73ZNUkVgrvauV0JmkFFV7RZz"
            .. "XzurjqLlxlkGnWSumWN68qS2WTdPZBUwIoV8NpMPAoGBAJj_uclQgAJLv1a2ZZic"
            .. "c2Gj4IbFyXCeVFws6lJaEk8iku9yQ_3P2g-kErRVEQHCdCSMRfX_DTdXHTkkUvur"
            .. "z147Gzv66xnMhEjJ6wpzxfG_7XYhcmaeF2iNzHUZO4w8T6_B2CZ1E9-pwfTAoehk"
            .. "h2VeYo_V4VvWKHUxg4U6se4l",
    },
}
